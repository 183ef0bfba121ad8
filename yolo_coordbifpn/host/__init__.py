"""What the package reads from Ultralytics: models, arguments, costs, the machine. Only `patches` changes it."""
