"""Objects in a bucket of any S3 server: client, connection, retries, errors, settings."""
