"""What is made for people: pages about data and models."""
