"""The desktop's side: paired devices, pinned connections, switching several at once."""
