"""Pictures drawn with Pillow, without a plotting library.

`samples` draws grids of images and scatter plots; `charts` draws lines, curves and heat maps; all
axes come from `frame`.
"""
