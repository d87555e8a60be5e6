"""Real stores for tests: an S3 service and a web server on loopback, and what goes wrong there."""
