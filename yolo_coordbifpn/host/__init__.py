"""What is asked of Ultralytics: its models, its arguments, its versions. `patches` changes it, this room does not."""
