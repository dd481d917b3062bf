"""The tasks that come with the package: pictures and what they show, by a ViT or a VGG-like network."""
