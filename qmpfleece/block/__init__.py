"""The block layer: nodes, edges, the pipeline and the drivers."""
