"""Where the vendor's checker puts single operators: the data of bpudeploy/conformance/measured."""
