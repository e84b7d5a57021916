"""CapFilt: writes captions for the pictures of a collection, and filters these and the collection's own texts."""
