"""Everything that touches Ultralytics: the start-up hook and the patches, one file each."""
