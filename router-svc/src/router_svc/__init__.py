"""The router: owns a fresh call from hold to settlement."""
