"""The conformance suite: one test per row of `rows.toml`, over the wire, against any endpoint."""
