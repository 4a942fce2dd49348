"""The places at which ops run: by module, line and number there."""

import torch
from torch import nn

from prunus.graph.capture import capture
from prunus.graph.overriding import places


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) * 2


def test_op_of_a_torch_module_has_no_line_of_the_module_that_calls_it():
    model, x = Doubled(), torch.zeros(2, 4)

    found = {place.op: place for place in places(model, capture(model, x), x).values()}

    assert found["aten.linear.default"].path == "layer"
    assert found["aten.linear.default"].line == ""
    assert found["aten.mul.Tensor"].path == ""
    assert found["aten.mul.Tensor"].line.startswith(f"{__file__}:")
