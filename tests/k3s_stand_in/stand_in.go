package version

import (
	"os"
	"strings"
)

// Lets the stand-in for K3s say which version the programs report.
func init() {
	if given := os.Getenv("K3S_STAND_IN_VERSION"); given != "" {
		gitVersion = given
		if parts := strings.Split(given, "."); len(parts) > 2 {
			gitMajor, gitMinor = strings.TrimPrefix(parts[0], "v"), parts[1]
		}
	}
}
