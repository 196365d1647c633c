"""Stage scripts: parse, one library call, metrics. DVC runs them; so can you."""
