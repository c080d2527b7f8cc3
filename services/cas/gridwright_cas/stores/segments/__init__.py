"""The segment engine: small blobs in a log, large ones in files of their own, an index in LMDB.

Theory of operation. What arrives within a moment is one *group*: its records are appended to
the open segment of this process, the segment is synchronised, one LMDB transaction stores
the rows together with the offset up to which the segment is in the index (the *replay
offset*), and then the group is acknowledged. After a crash the bytes beyond the replay
offset are read once more (``segment_file``) and the index has all that was acknowledged,
whatever the number of blobs. A large blob is a file (``large_file``) and a record that says so.

Modules from the bottom up: ``disk`` (the system calls), ``key`` and ``record`` (the bytes on
disk), ``index`` (LMDB), ``segment_file`` (append, replay), ``group_commit`` (the thread that
writes), ``store`` (the BlobStore).
"""
