"""The vendor checker's placement of single operators: the data of bpudeploy/conformance/measured."""
