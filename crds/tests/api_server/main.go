// Says what an API server of Kubernetes would say of custom resources, with its own code: the definition is checked as it is at
// creation, then each manifest by schema, defaults and CEL rules.
//
//	validate DEFINITION.yaml .. -- MANIFESTS.yaml ..
//
// One JSON object a line: {"file", "document", "kind", "name", "errors": [{"field", "message"}], "pruned": [..]}. Exit status 1 if a definition is refused.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

type kind struct {
	structural *structural.Structural
	schema     schemavalidation.SchemaValidator
	cel        *cel.Validator
}

type finding struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

type answer struct {
	File     string    `json:"file"`
	Document int       `json:"document"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Errors   []finding `json:"errors"`
	Pruned   []string  `json:"pruned"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "validate:", err)
		os.Exit(1)
	}
}

func run() error {
	kinds := map[string]kind{}
	arguments := os.Args[1:]
	for len(arguments) > 0 && arguments[0] != "--" {
		if err := define(arguments[0], kinds); err != nil {
			return fmt.Errorf("%s: %w", arguments[0], err)
		}
		arguments = arguments[1:]
	}
	out := json.NewEncoder(os.Stdout)
	if len(arguments) == 0 {
		return nil
	}
	for _, file := range arguments[1:] {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
		for number := 0; ; number++ {
			// Whole numbers stay whole: as floats they would fail the CEL rules.
			var raw runtime.RawExtension
			if err := documents.Decode(&raw); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("%s: document %d: %w", file, number, err)
			}
			var object map[string]interface{}
			if err := utiljson.Unmarshal(raw.Raw, &object); err != nil {
				return fmt.Errorf("%s: document %d: %w", file, number, err)
			}
			name, _ := object["kind"].(string)
			kind, known := kinds[name]
			if !known {
				continue
			}
			answer := kind.judge(object)
			answer.File, answer.Document = file, number
			if err := out.Encode(answer); err != nil {
				return err
			}
		}
	}
	return nil
}

// define reads a CustomResourceDefinition and checks it as the API server does when it is created.
func define(file string, kinds map[string]kind) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	written, _, err := codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		return err
	}
	if _, ours := written.(*v1.CustomResourceDefinition); !ours {
		return fmt.Errorf("a %T", written)
	}
	var definition apiextensions.CustomResourceDefinition
	if err := scheme.Convert(written, &definition, nil); err != nil {
		return err
	}
	// As the server does before it checks.
	for _, version := range definition.Spec.Versions {
		if version.Storage {
			definition.Status.StoredVersions = []string{version.Name}
		}
	}
	if failed := validation.ValidateCustomResourceDefinition(context.Background(), &definition); len(failed) > 0 {
		return failed.ToAggregate()
	}
	props := definition.Spec.Validation
	if props == nil {
		props = definition.Spec.Versions[0].Schema
	}
	shape, err := structural.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		return err
	}
	schema, _, err := schemavalidation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		return err
	}
	kinds[definition.Spec.Names.Kind] = kind{shape, schema, cel.NewValidator(shape, true, celconfig.PerCallLimit)}
	return nil
}

func (k kind) judge(object map[string]interface{}) answer {
	metadata, _ := object["metadata"].(map[string]interface{})
	name, _ := metadata["name"].(string)
	kindName, _ := object["kind"].(string)
	result := answer{Kind: kindName, Name: name, Errors: []finding{}, Pruned: []string{}}
	options := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	result.Pruned = append(result.Pruned, pruning.PruneWithOptions(object, k.structural, true, options)...)
	defaulting.Default(object, k.structural)
	failed := schemavalidation.ValidateCustomResource(nil, object, k.schema)
	failed = append(failed, listtype.ValidateListSetsAndMaps(nil, k.structural, object)...)
	if len(failed) == 0 {
		more, _ := k.cel.Validate(context.Background(), nil, k.structural, object, nil, celconfig.RuntimeCELCostBudget)
		failed = append(failed, more...)
	}
	for _, one := range failed {
		result.Errors = append(result.Errors, finding{one.Field, one.Detail})
	}
	return result
}
