"""D-Robotics' compilers: `hb_mapper` (X3, X5, Ultra), tested with the real one, and `hb_compile` (S100), never met."""
