"""The one pipeline: options, model, preparation, schedule, driver, record, file. Start reading at `experiment`."""
