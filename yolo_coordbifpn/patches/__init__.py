"""Everything that changes Ultralytics: the start-up hook and the patches, one file for each subject."""
