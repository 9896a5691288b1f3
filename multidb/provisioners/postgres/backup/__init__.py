"""An app's data coming and going."""
