"""How much fits into messages."""

#: What a batch may hold: with the 85 bytes that each of 4,000 blobs costs beside its own, still
#: below the 4 MiB that clients receive by default (checklist CAP-15, BRB-09).
MAX_BATCH_BYTES = 4 * 1024 * 1024 - 512 * 1024
#: What one message may hold: some clients stream uploads in messages of several MiB (GRP-02).
MAX_RECEIVE_BYTES = 16 * 1024 * 1024
