"""The results database's schema, revision by revision; ``upgrade`` brings a database to the newest."""
