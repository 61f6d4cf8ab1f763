"""What the cloud says of the machine that this enricher runs on: `cloud.CloudSource`, and one file for each cloud."""
