"""Parts of networks that methods, backbones and losses share."""
