"""One row of a preference data set to one group: columns, messages, images, preferences, rejections."""
