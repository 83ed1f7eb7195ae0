"""Static INT8/INT16 quantization of a restructured graph, written in QDQ form."""
