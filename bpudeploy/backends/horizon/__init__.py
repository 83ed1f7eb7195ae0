"""D-Robotics' compilers: `hb_mapper` (X3, X5, Ultra) and `hb_compile` (S100). Not yet run on the real tools."""
