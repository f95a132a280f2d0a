"""What the tools do; the only wiring in the package. One file per tool."""
