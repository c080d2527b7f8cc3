"""`gridwright config`: settings files of ours are checked, those of NativeLink translated."""
