"""The segment engine: small blobs in a log, large ones in files of their own, an index in LMDB.

Theory of operation. What arrives within a moment is one *group*: its records are appended to
the open segment of this process, the segment is synchronised, one LMDB transaction stores
the rows together with the offset up to which the segment is in the index (the *replay
offset*), and then the group is acknowledged. After a crash the bytes beyond the replay
offset are read once more (``segment_file``) and the index has all that was acknowledged,
whatever the number of blobs. A large blob is a file (``large_file``) and a record that says so.

Room is charged before bytes are written (``room``), so that the directory never takes more than it
may. One of the processes that use it keeps house: whole old segments go, and what was used since
they were sealed is copied forward first. What goes loses its rows, that is brought to the disk, and
then the files go, so no row ever names a file that is gone.

Modules from the bottom up:

- bytes: ``disk`` (the system calls), ``key``, ``record``, ``row``, ``file_system`` (where a store may be)
- the index: ``index``, ``index_gate`` (who opens it), ``writer_lock``, ``segment_table``, ``index_size``,
  ``compact_copy``, ``room``, ``removal_log``, ``owners``
- writing: ``segment_file``, ``segment_account``, ``segment_writer`` (append, commit), ``recovery`` (replay),
  ``group_commit`` (who is written together)
- large blobs: ``large_file`` (the format), ``large_files``, ``large_read``, ``partial_uploads``
- reading: ``segment_reader``, ``blob_reader``, ``quarantine`` (for what is rotten)
- keeping house: ``eviction`` (decisions), ``evictor``, ``remover``, ``survivors``, ``leftovers``, ``lost_index``,
  ``scrubber``, ``housekeeper`` (the thread)
- all of it: ``parts``, ``stats``, ``engine`` (synchronous), ``store`` (the BlobStore)
"""
