"""Latency prediction: work counted from the shapes of a graph, times rates fitted to published latencies.

Every result is a prediction and labelled as such; nothing here is measured.
"""
