"""How a server is spoken to: connections, what is sent over them, and what a refusal means."""
