"""How sources pack their records, and the record types that handlers yield."""
