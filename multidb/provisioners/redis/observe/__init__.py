"""What a server says of itself and of each app: health, use, and what else has to be there."""
