"""What is said on the wire: models shared by packages, and events."""
