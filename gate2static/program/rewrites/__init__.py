"""Rewrites of a traced graph into operators that the rest of the package knows, one rewrite per file.

While a forward is traced:

- `canonical_names`: torch's other names of functions and arguments, most of them NumPy's, become its first names.
- `decompose`: shuffles, gated linear units and einsums become reshapes, permutations and products.
- `norm_activation`: a norm with activation becomes the norm, then the activation.
- `attention`: attention and encoder layers of `torch.nn` become linear layers and operators.
- `size_functions`, `integer_sizes`: sizes that follow the batch are recorded where torch.fx would lose them.

On the traced graph:

- `gradients`: what is made without gradients is detached; custom autograd functions stay one call.
- `functional_layers`: functions on stored weights become layers.
- `out_of_place`: in-place operators become out-of-place ones; functional dropout becomes a layer.
"""
