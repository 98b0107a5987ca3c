"""What outlives a power cut: journal, persistent weight memory, the way back to a known state."""
