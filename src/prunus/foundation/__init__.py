"""Tools that know no network: registries, atomic files, strict JSON, option records, checked arguments."""
