"""Where records come from: files, data sets on the Hub, their shapes."""
