"""Search indexes over chunk ids: caches that can always be rebuilt from the database."""
