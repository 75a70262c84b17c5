"""Pictures without a plotting library: grids of samples, curves and scatter plots."""
