"""Forms in which a dataset leaves GRA, each written and read back."""
