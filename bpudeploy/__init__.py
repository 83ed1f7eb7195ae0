"""bpudeploy: vision transformers onto BPU boards, from one recipe, with one command."""

__version__ = "0.1.0"
