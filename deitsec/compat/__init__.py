"""Other libraries' ways to call an attack, on deitsec's engine."""
