"""The words in which operators compose stores: `stores:`, `cas.store`, `actioncache.store`."""
