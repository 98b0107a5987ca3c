"""Plans and simulations as tables, pictures and pages."""
