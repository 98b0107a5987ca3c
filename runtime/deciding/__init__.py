"""Who decides about the mode: people, holds, triggers, safety."""
