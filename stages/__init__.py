"""The commands: one thin file each. Heavy imports happen inside commands, never at module level."""
