"""The `chaos` command. Commands read the configuration and call `Operations`; they decide nothing themselves."""
