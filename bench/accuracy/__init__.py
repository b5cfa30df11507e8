"""Error rates of a bundle, and what a precision changes of them."""
