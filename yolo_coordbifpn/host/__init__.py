"""What the package reads from Ultralytics: models, arguments, versions. Only `patches` changes it."""
